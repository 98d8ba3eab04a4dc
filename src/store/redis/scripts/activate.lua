-- Makes the fencing tokens of this node safe to use, once in each life of it as a master.
-- KEYS: locks, servers, and the record of the older data format.
-- ARGV: a new activation id, the highest token that the caller knows (0 if none), the caller's wall clock, how far the
-- clocks may differ, the gap between tokens, and the activation whose clock has stepped ('' if none).
-- Reply: {'active', activation id, token, now} | {'guard', 'role' | 'format' | 'older_format' | 'clock', detail}
--
-- A node that was promoted, restarted or restored has another replication id than the record, and may have lost the
-- latest grants. Its tokens go on beyond a gap that no loss can span, and beyond the wall clock in microseconds. The
-- clock is read only once for a life, so a deposed master cannot climb past its successor. After a step of the clock
-- the tokens go on as they were; only the time in which servers report begins anew.
local LOCKS, SERVERS, OLDER = unpack(KEYS)
local new_activation, known_token, wall_clock, max_difference, gap, stepped = unpack(ARGV)
local function int(number) return string.format('%d', number) end

local replid_now = string.match(info, 'master_replid:(%x+)')
local format, replid, activation, token, writes, recover, held, releases, rebuild = unpack(redis.call('HMGET', LOCKS,
  '#format', '#replid', '#activation', '#token', '#writes', '#recover', '#held', '#releases', '#rebuild'))
if format and tonumber(format) > FORMAT then return { 'guard', 'format', format } end
if redis.call('EXISTS', OLDER) == 1 then return { 'guard', 'older_format', OLDER } end
local now = time_us()
local same_life = replid == replid_now
if same_life and activation ~= stepped then return { 'active', activation, token, int(now) } end

if not same_life then
  if math.abs(now - wall_clock) > tonumber(max_difference) then return { 'guard', 'clock', int(now) } end
  local base = math.max(now, known_token + gap)
  if token then base = math.max(base, token + gap) end
  token = int(base)
end
-- `RECORD_FIELDS` is the number of these fields.
redis.call('HSET', LOCKS, '#format', FORMAT, '#replid', replid_now, '#activation', new_activation,
  '#activated', int(now),
  '#granting_from', int(math.max(recover or 0, now + REPORTING_US)), '#token', token, '#writes', writes or '0',
  '#writes_base', writes or '0', '#recover', recover or '0', '#unlisted', 1 - redis.call('EXISTS', SERVERS),
  '#held', held or '0', '#releases', releases or '', '#rebuild', rebuild or '', '#index', new_activation,
  '#rounds', '0')
return { 'active', new_activation, token, int(now) }
