-- How a lock is written in Redis, and the parts that all verbs share. Mirrors `lock/rules.rs`.
--
-- The value of a lock key is text, a record a line, its fields set apart by tabs (no field can hold
-- a tab or a line feed: they are not printable characters):
--   L  lease id, fencing token, acquired at, deadline, TTL, renewals, attempt, idempotency key,
--      idempotency request, ticket and server of the waiter that it is reserved for, holder, metadata as JSON
--                                                               one line for each holder
--   R  lease id, forget at, idempotency key                     one line for each remembered release
-- Moments and durations are in microseconds. Absent values are empty.

local LEASE = '^L\t(%x+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d*)\t(%x*)\t(%x*)\t(%d*)\t(%x*)\t([^\t]*)\t([^\t]*)$'
local RELEASE = '^R\t(%x+)\t(%d+)\t(%x*)$'

-- Lua's own conversion would write a token as 1.79e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- Reads a lock as it is now: its live lease if it has one, and the releases still remembered.
-- What is over is not read, and so is dropped by the next write. A lease that was granted before this
-- activation outlasts its deadline by the skew: that deadline is of another node's clock, and the rules
-- know but one.
local function load(key, call)
  local now, lock = call.now, { released = {} }
  local text = redis.call('GET', key)
  if not text then return lock end
  for line in string.gmatch(text, '[^\n]+') do
    local id, token, acquired, deadline, ttl, renewals, attempt, idem, request, reserved, server, holder, metadata =
      string.match(line, LEASE)
    if id then
      local outlasts = tonumber(token) <= (call.taken_over_below or -1) and call.skew_us or 0
      if call.expired_at < tonumber(deadline) + outlasts then
        lock.live = {
          id = id, token = token, acquired = tonumber(acquired), deadline = tonumber(deadline),
          ttl = tonumber(ttl), renewals = tonumber(renewals), attempt = attempt, idem = idem,
          request = request, reserved = reserved ~= '' and reserved or nil, server = server, holder = holder,
          metadata = metadata,
          over_at = deadline + outlasts + call.now - call.expired_at,
        }
      end
    else
      local released, forget, key_of_release = string.match(line, RELEASE)
      if now < tonumber(forget) then
        table.insert(lock.released, { id = released, forget = tonumber(forget), idem = key_of_release })
      end
    end
  end
  return lock
end

-- Writes a lock. The Redis TTL only collects garbage: a margin after the last moment that
-- matters, so that no node's own clock can end a lease.
local function save(key, lock, call)
  local lines, last = {}, 0
  local l = lock.live
  if l then
    last = l.deadline
    lines[1] = table.concat({
      'L', l.id, l.token, int(l.acquired), int(l.deadline), int(l.ttl), int(l.renewals), l.attempt,
      l.idem, l.request, l.reserved or '', l.reserved and l.server or '', l.holder, l.metadata,
    }, '\t')
  end
  for _, r in ipairs(lock.released) do
    if r.forget > last then last = r.forget end
    table.insert(lines, table.concat({ 'R', r.id, int(r.forget), r.idem }, '\t'))
  end
  if #lines == 0 then
    redis.call('DEL', key)
  else
    redis.call('SET', key, table.concat(lines, '\n'), 'PX', int(math.ceil((last - call.now + call.margin_us) / 1000)))
  end
end

-- What a reply says of a live lease: its id, then what anyone may know.
local function lease_reply(outcome, l)
  return { outcome, l.id, l.token, int(l.acquired), int(l.deadline), int(l.ttl), int(l.renewals),
           l.holder, l.metadata }
end

-- Somebody else's lease, without its secret, and with the moment until which nobody else gets the lock.
local function holding_reply(outcome, l)
  local reply = lease_reply(outcome, l)
  reply[2], reply[5] = '', int(l.over_at or l.deadline)
  return reply
end

local function lost_reply(lock)
  return { 'lost', lock.live and 'held_by_other' or 'not_held' }
end

local verbs = {}
