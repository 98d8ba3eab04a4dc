-- Makes this node's fencing tokens safe to use, once for each life of a master.
-- KEYS: the meta hash, the hash of servers.
-- ARGV: data format of the caller, a new activation id, the highest token the caller knows of (0 if
-- none), the caller's wall clock, how far the clocks may be apart, the gap, and the activation whose
-- clock has stepped ('' if none).
-- Reply: {'active', activation id, token, now} | {'guard', 'role' | 'format' | 'clock', detail}
--
-- A node that was promoted, restarted or restored has another replication id than the one stored, and
-- may have lost the last grants: its tokens go on beyond a gap that no loss can span, and beyond the
-- wall clock in microseconds. The clock is read this once and not for each grant, so a deposed master
-- cannot climb past its successor. After a step of the clock the tokens go on as they were; what begins
-- anew is the time in which servers report. Where none is listed, nobody knows whom to wait for.
local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)')
if role ~= 'master' then return { 'guard', 'role', role } end
local replid = string.match(info, 'master_replid:(%x+)')
local format, stored_replid, activation, token, writes, recover =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'token', 'writes', 'recover'))
if format and tonumber(format) > tonumber(ARGV[1]) then return { 'guard', 'format', format } end
local now = time_us()
local same_life = stored_replid == replid
if same_life and activation ~= ARGV[7] then return { 'active', activation, token, string.format('%.0f', now) } end

local remembered, gap = tonumber(ARGV[3]), tonumber(ARGV[6])
if not same_life then
  if math.abs(now - tonumber(ARGV[4])) > tonumber(ARGV[5]) then
    return { 'guard', 'clock', string.format('%.0f', now) }
  end
  local base = math.max(now, remembered + gap)
  if token then base = math.max(base, tonumber(token) + gap) end
  token = string.format('%.0f', base)
end
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'replid', replid, 'activation', ARGV[2], 'token', token,
  'base', token, 'activated', string.format('%.0f', now), 'margin_from', string.format('%.0f', now),
  'writes', writes or 0, 'writes_base', writes or 0,
  'recover', recover or 0, 'unlisted', 1 - redis.call('EXISTS', KEYS[2]))
return { 'active', ARGV[2], token, string.format('%.0f', now) }
