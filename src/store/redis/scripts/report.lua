-- The heartbeat of a server, with its high-water mark and the clocks it has seen. A loss that it shows pauses new
-- grants.
-- KEYS: locks, servers, reservations.
-- ARGV: the server's id, its activation id, the activation that it reported to before ('' if none), the confirmed
-- writes that it knew then, the highest token it knows, how long the latest confirmed lease counts, '1' if it saw a
-- loss of time, how far the clock was behind and for how long that counts, the same for ahead, how long the clock has
-- not stepped, the longest pause, the skew, and the channel of the server.
-- Reply: {'ok', now, pause, replicas online, missing writes, confirmed writes, token, how long the latest lease counts, clock behind and
-- for how long, clock ahead and for how long, '1' if queue entries of the server may be lost, then for each reservation
-- its lock, the waiter if it is the server's own, and for how long} | {'guard', 'role' | 'format' | 'inactive' |
-- 'activation', detail}
--
-- The values from `confirmed writes` on are those of all servers together, the clocks those of the other servers. They
-- stay beside the name of a server while it reports, so that others know them after it has ended.
local LOCKS, SERVERS, RESERVATIONS = unpack(KEYS)
local server, own_activation, reported_to, known_writes, known_token, counts_on, lost_time, behind, behind_for, ahead,
  ahead_for, steady_for, max_pause, skew, channel = unpack(ARGV)

-- How long a reservation is told of after its end: longer than a heartbeat, so that every server hears of it.
local RESERVATION_TOLD_US = 2000000

local function int(number) return string.format('%d', number) end

local format, replid, activation, activated, granting_from, token, recover, unlisted = unpack(redis.call('HMGET', LOCKS,
  '#format', '#replid', '#activation', '#activated', '#granting_from', '#token', '#recover', '#unlisted'))
if format and tonumber(format) > FORMAT then return { 'guard', 'format', format } end
if replid ~= string.match(info, 'master_replid:(%x+)') then return { 'guard', 'inactive', '' } end
if activation ~= own_activation then return { 'guard', 'activation', activation or '' } end

local now, missing = time_us(), 0
counts_on, recover, activated = tonumber(counts_on), tonumber(recover), tonumber(activated)
local pausing_until = recover
if reported_to ~= activation then
  missing = math.max(0, known_writes - redis.call('HGET', LOCKS, '#writes_base'))
end
if (missing > 0 or lost_time == '1') and counts_on > 0 then
  recover = math.max(recover, now + counts_on + skew)
end
-- The setting bounds a pause that goes on too.
recover = math.min(recover, now + max_pause)
if recover ~= pausing_until then
  redis.call('HSET', LOCKS, '#recover', int(recover), '#granting_from', int(math.max(granting_from, recover)))
end
if tonumber(known_token) > tonumber(token) then
  token = known_token
  redis.call('HSET', LOCKS, '#token', token)
end

-- Writes confirmed under another activation are another count.
local confirmed = reported_to == activation and tonumber(known_writes) or 0
local before = redis.call('HGET', SERVERS, server) or ''
local last_heard = tonumber(string.match(before, '^%x+ (%d+)'))
local lapsed = reported_to ~= activation or not last_heard or now - last_heard > HEARTBEAT_US
redis.call('HSET', SERVERS, server, table.concat({
  activation, int(now), int(confirmed), int(now + counts_on), behind, int(now + behind_for), ahead,
  int(now + ahead_for),
}, ' '))
behind, behind_for, ahead, ahead_for = 0, 0, 0, 0
local counts_until, reports = now, redis.call('HGETALL', SERVERS)
for at = 1, #reports, 2 do
  local of, heard, confirmed_there, until_there, behind_there, behind_until, ahead_there, ahead_until =
    string.match(reports[at + 1], '^(%x+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  -- Distances are relative to the clock of their report: after a step they mean nothing.
  local is_current = of == activation and reports[at] ~= server and now - heard + skew < tonumber(steady_for)
  if is_current and behind_until - now > 0 and tonumber(behind_there) > behind then
    behind, behind_for = tonumber(behind_there), behind_until - now
  end
  if is_current and ahead_until - now > 0 and tonumber(ahead_there) > ahead then
    ahead, ahead_for = tonumber(ahead_there), ahead_until - now
  end
  if of == activation then
    confirmed, counts_until = math.max(confirmed, confirmed_there), math.max(counts_until, until_there)
  end
  -- A server that fell silent has ended, and so has one that did not report in time. While the master is down no server
  -- can report, so none counts as ended then.
  local silent = of == activation and now - heard > SILENT_US
  local absent = of ~= activation and now - activated > REPORTING_US
  if silent or absent then redis.call('HDEL', SERVERS, reports[at]) end
end
local pause = recover - now
if unlisted == '1' then pause = math.max(pause, activated + REPORTING_US - now) end
-- The server notices when it does not hear its own message.
redis.call('PUBLISH', channel, '')
local _, online = string.gsub(info, 'state=online', '')
local reply = {
  'ok', int(now), int(math.max(0, pause)), int(online), int(missing), int(confirmed), token, int(counts_until - now), int(behind),
  int(behind_for), int(ahead), int(ahead_for), lapsed and '1' or '',
}
local reservations = redis.call('HGETALL', RESERVATIONS)
for at = 1, #reservations, 2 do
  local of_server, waiter, deadline = string.match(reservations[at + 1], '^(%x+) (%x+) (%d+)$')
  if deadline + RESERVATION_TOLD_US <= now then
    redis.call('HDEL', RESERVATIONS, reservations[at])
  else
    table.insert(reply, reservations[at])
    table.insert(reply, of_server == server and waiter or '')
    table.insert(reply, int(math.max(0, deadline - now)))
  end
end
return reply
