-- A server says that it lives and what it remembers; a loss found by that pauses new grants.
-- KEYS: the meta hash, the hash of servers, the hash of turns, the set of leases.
-- ARGV: the server's id, its activation id, the activation it reported to last ('' if none), the count of
-- writes that it saw confirmed then, the highest token it knows of, how long the latest lease that it
-- confirmed may still be counted on, '1' if it saw the clock step beyond the skew, '2' if by less, the longest
-- pause, the skew of clocks, the data format of the caller, how long the list of servers is kept (in
-- milliseconds), and the channel on which it hears news.
-- Reply: {'ok', now, how long new grants pause, how many writes that it saw confirmed are missing, and of
-- all servers together: the count of confirmed writes, the highest token, how long the latest lease may be
-- counted on; how many leases are held, and how many were found to have run out; then '1' if places of the
-- caller's waiters may be lost, and of each lock that is reserved its name,
-- the waiter if it is one of the caller's, and for how long} | {'guard', 'role' | 'format' | 'inactive' | 'activation', detail}
--
-- What a server saw confirmed is kept beside its name for as long as it reports, so that the others know
-- it when it has ended.
-- As in `queue.lua`.
local HEARTBEAT_US = 3000000

-- How long a reservation that lapsed is told of: more than a heartbeat, so that every server hears of it.
local TURN_KEPT_US = 2000000

-- How many leases that ran out are taken out of the set at once: Redis serves nobody else meanwhile (about 5 ms).
local MAX_RUN_OUT = 10000

local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)')
if role ~= 'master' then return { 'guard', 'role', role } end
local format, replid, activation, activated, token, base, recover, unlisted =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'activated', 'token', 'writes_base', 'recover', 'unlisted'))
if format and tonumber(format) > tonumber(ARGV[10]) then return { 'guard', 'format', format } end
if replid ~= string.match(info, 'master_replid:(%x+)') then return { 'guard', 'inactive', '' } end
if activation ~= ARGV[2] then return { 'guard', 'activation', activation or '' } end

local now = time_us()
local counts_on, missing = tonumber(ARGV[6]), 0
if ARGV[3] ~= activation then missing = math.max(0, tonumber(ARGV[4]) - tonumber(base)) end
recover = tonumber(recover)
if (missing > 0 or ARGV[7] == '1') and counts_on > 0 then
  recover = math.max(recover, now + math.min(counts_on + tonumber(ARGV[9]), tonumber(ARGV[8])))
  redis.call('HSET', KEYS[1], 'recover', string.format('%.0f', recover))
end
-- Leases that were granted before a small step are as leases taken over: their deadlines are of another clock.
if ARGV[7] == '2' then
  redis.call('HSET', KEYS[1], 'base', token, 'margin_from', string.format('%.0f', now))
end
if tonumber(ARGV[5]) > tonumber(token) then
  token = ARGV[5]
  redis.call('HSET', KEYS[1], 'token', token)
end

-- What it saw confirmed under another activation is another count.
local confirmed = ARGV[3] == activation and tonumber(ARGV[4]) or 0
local last_heard = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^%x+ (%d+)')
local lapsed = ARGV[3] ~= activation or not last_heard or now - tonumber(last_heard) > HEARTBEAT_US
redis.call('HSET', KEYS[2], ARGV[1], string.format('%s %.0f %.0f %.0f', activation, now, confirmed, now + counts_on))
-- Whoever reported to this activation and fell silent is gone; whoever has not reported to it when the
-- time for that is over is gone too. Nobody can report to a master that is down, so until then nobody is.
local reports, until_all = redis.call('HGETALL', KEYS[2]), now
for i = 1, #reports, 2 do
  local of, at, confirmed_there, counts_until = string.match(reports[i + 1], '^(%x+) (%d+) (%d+) (%d+)$')
  if of == activation then
    confirmed, until_all = math.max(confirmed, tonumber(confirmed_there)), math.max(until_all, tonumber(counts_until))
  end
  local silent = of == activation and now - tonumber(at) > 5000000
  local absent = of ~= activation and now - tonumber(activated) > 1000000
  if silent or absent then redis.call('HDEL', KEYS[2], reports[i]) end
end
-- Kept for as long as a lease may be counted on: so long there is somebody to wait for.
redis.call('PEXPIRE', KEYS[2], ARGV[11])
local pause = recover - now
if unlisted == '1' then pause = math.max(pause, tonumber(activated) + 1000000 - now) end
local function int(number) return string.format('%.0f', number) end
-- A lease may outlast its deadline by the skew, and be renewed then.
local run_out = math.min(MAX_RUN_OUT, redis.call('ZCOUNT', KEYS[4], '-inf', int(now - tonumber(ARGV[9]))))
if run_out > 0 then redis.call('ZREMRANGEBYRANK', KEYS[4], 0, run_out - 1) end
local held = redis.call('ZCOUNT', KEYS[4], '(' .. int(now), '+inf')
local reply = {
  'ok', int(now), int(math.max(0, pause)), int(missing), int(confirmed), token, int(until_all - now), int(held),
  int(run_out), lapsed and '1' or '',
}
-- So that it notices when it does not hear.
redis.call('PUBLISH', ARGV[12], '')
local turns = redis.call('HGETALL', KEYS[3])
for i = 1, #turns, 2 do
  local server, waiter, deadline = string.match(turns[i + 1], '^(%x+) (%x+) (%d+)$')
  if tonumber(deadline) + TURN_KEPT_US <= now then
    redis.call('HDEL', KEYS[3], turns[i])
  else
    table.insert(reply, turns[i])
    table.insert(reply, server == ARGV[1] and waiter or '')
    table.insert(reply, int(math.max(0, deadline - now)))
  end
end
return reply
