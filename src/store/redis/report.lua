-- A server says that it lives and what it remembers; a loss found by that pauses new grants.
-- KEYS: the meta hash, the hash of servers.
-- ARGV: the server's id, its activation id, the activation it reported to last ('' if none), the count of
-- writes that it saw confirmed then, the highest token it knows of, how long the latest lease that it
-- confirmed may still be counted on, '1' if it saw the clock step, the longest pause, the skew of clocks,
-- the data format of the caller, how long the list of servers is kept (in milliseconds).
-- Reply: {'ok', now, how long new grants pause} | {'guard', 'role' | 'format' | 'inactive' | 'activation', detail}
local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)')
if role ~= 'master' then return { 'guard', 'role', role } end
local format, replid, activation, activated, token, base, recover, unlisted =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'activated', 'token', 'writes_base', 'recover', 'unlisted'))
if format and tonumber(format) > tonumber(ARGV[10]) then return { 'guard', 'format', format } end
if replid ~= string.match(info, 'master_replid:(%x+)') then return { 'guard', 'inactive', '' } end
if activation ~= ARGV[2] then return { 'guard', 'activation', activation or '' } end

local now = time_us()
local counts_on, fewer = tonumber(ARGV[6]), ARGV[3] ~= activation and tonumber(ARGV[4]) > tonumber(base)
recover = tonumber(recover)
if (fewer or ARGV[7] == '1') and counts_on > 0 then
  recover = math.max(recover, now + math.min(counts_on + tonumber(ARGV[9]), tonumber(ARGV[8])))
  redis.call('HSET', KEYS[1], 'recover', string.format('%.0f', recover))
end
if tonumber(ARGV[5]) > tonumber(token) then redis.call('HSET', KEYS[1], 'token', ARGV[5]) end

redis.call('HSET', KEYS[2], ARGV[1], activation .. ' ' .. string.format('%.0f', now))
-- Whoever reported to this activation and fell silent is gone; whoever has not reported to it when the
-- time for that is over is gone too. Nobody can report to a master that is down, so until then nobody is.
local reports = redis.call('HGETALL', KEYS[2])
for i = 1, #reports, 2 do
  local of, at = string.match(reports[i + 1], '^(%x+) (%d+)$')
  local silent = of == activation and now - tonumber(at) > 5000000
  local missing = of ~= activation and now - tonumber(activated) > 1000000
  if silent or missing then redis.call('HDEL', KEYS[2], reports[i]) end
end
-- Kept for as long as a lease may be counted on: so long there is somebody to wait for.
redis.call('PEXPIRE', KEYS[2], ARGV[11])
local pause = recover - now
if unlisted == '1' then pause = math.max(pause, tonumber(activated) + 1000000 - now) end
return { 'ok', string.format('%.0f', now), string.format('%.0f', math.max(0, pause)) }
