-- Makes this node's fencing tokens safe to use, once for each life of a master.
-- KEYS: the meta hash.
-- ARGV: data format of the caller, a new activation id, the highest token the caller knows of (0 if
-- none), the caller's wall clock, how far the clocks may be apart, the gap.
-- Reply: {'active', activation id, token} | {'guard', 'role' | 'format' | 'clock', detail}
--
-- A node that was promoted, restarted or restored has another replication id than the one stored, and
-- may have lost the last grants: its tokens go on beyond a gap that no loss can span, and beyond the
-- wall clock in microseconds. The clock is read this once and not for each grant, so a deposed master
-- cannot climb past its successor.
local info = redis.call('INFO', 'replication')
local role = string.match(info, 'role:(%a+)')
if role ~= 'master' then return { 'guard', 'role', role } end
local replid = string.match(info, 'master_replid:(%x+)')
local format, stored_replid, activation, token =
  unpack(redis.call('HMGET', KEYS[1], 'format', 'replid', 'activation', 'token'))
if format and tonumber(format) > tonumber(ARGV[1]) then return { 'guard', 'format', format } end
if stored_replid == replid then return { 'active', activation, token } end

local now = time_us()
if math.abs(now - tonumber(ARGV[4])) > tonumber(ARGV[5]) then
  return { 'guard', 'clock', string.format('%.0f', now) }
end
local gap = tonumber(ARGV[6])
local base = math.max(now, tonumber(ARGV[3]) + gap)
if token then base = math.max(base, tonumber(token) + gap) end
token = string.format('%.0f', base)
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'replid', replid, 'activation', ARGV[2], 'token', token)
return { 'active', ARGV[2], token }
