-- How a lock is written in Redis, and the parts that all verbs share. Mirrors `lock/rules.rs`.
--
-- The value of a lock key is text, a record a line, its fields set apart by tabs (no field can hold
-- a tab or a line feed: they are not printable characters):
--   L  lease id, fencing token, acquired at, deadline, TTL, renewals, attempt, idempotency key,
--      idempotency request, ticket and server of the waiter that it is reserved for, holder, metadata as JSON
--                                                               one line for each holder
--   R  lease id, forget at, idempotency key                     one line for each remembered release
-- Moments and durations are in microseconds. Absent values are empty.

local LEASE = '^L\t(%x+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d*)\t(%x*)\t(%x*)\t(%d*)\t(%x*)\t([^\t]*)\t([^\n]*)\n?()'
local OLDEST = '^R\t%x+\t(%d+)\t%x*\n()'

-- Lua's own conversion would write a token as 1.79e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- Reads a lock as it is now: its live lease if it has one, and the releases still remembered.
-- What is over is not read, and so is dropped by the next write. A lease that was granted before this
-- activation outlasts its deadline by the skew: that deadline is of another node's clock, and the rules
-- know but one. The releases stay text, the oldest first and each with its line feed: a lock that changes hands
-- quickly has sixteen, and hardly anybody asks for one of them.
local function load(key, call)
  local now, lock = call.now, { released = '' }
  local text = redis.call('GET', key)
  if not text then return lock end
  local from = 1
  while string.byte(text, from) == 76 do
    local id, token, acquired, deadline, ttl, renewals, attempt, idem, request, reserved, server, holder, metadata, after =
      string.match(text, LEASE, from)
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
    from = after
  end
  if from <= #text then
    if string.byte(text, -1) ~= 10 then text = text .. '\n' end
    local forget, after = string.match(text, OLDEST, from)
    while forget and now >= tonumber(forget) do
      from = after
      forget, after = string.match(text, OLDEST, from)
    end
    lock.released = string.sub(text, from)
  end
  return lock
end

-- Whether the release with this lease id is remembered.
local function was_released(lock, id, call)
  local _, at = string.find(lock.released, 'R\t' .. id .. '\t', 1, true)
  return at and call.now < tonumber(string.match(lock.released, '^%d+', at + 1))
end

-- Whether a release with this idempotency key is remembered.
local function was_released_as(lock, idem, call)
  local at = string.find(lock.released, '\t' .. idem .. '\n', 1, true)
  return at and call.now < tonumber(string.match(string.sub(lock.released, at - 20, at - 1), '\t(%d+)$'))
end

-- Remembers a release, and as many before it as may be.
local function remember(lock, id, idem, memory_us, most, call)
  local released = string.format('%sR\t%s\t%.0f\t%s\n', lock.released, id, call.now + memory_us, idem)
  local lines, at = 0, 0
  repeat
    lines, at = lines + 1, string.find(released, '\n', at + 1, true)
  until not at
  for _ = most + 2, lines do
    released = string.sub(released, string.find(released, '\n', 1, true) + 1)
  end
  lock.released = released
end

-- Writes a lock. The Redis TTL only collects garbage: a margin after the last moment that
-- matters, so that no node's own clock can end a lease.
local function save(key, lock, call)
  local text, last = '', 0
  local l = lock.live
  if l then
    last = l.deadline
    text = table.concat({
      'L', l.id, l.token, int(l.acquired), int(l.deadline), int(l.ttl), int(l.renewals), l.attempt,
      l.idem, l.request, l.reserved or '', l.reserved and l.server or '', l.holder, l.metadata,
    }, '\t') .. '\n'
  end
  if lock.released ~= '' then
    text = text .. lock.released
    last = math.max(last, tonumber((string.match(string.sub(lock.released, -54), '\t(%d+)\t%x*\n$'))))
  end
  if text == '' then
    redis.call('DEL', key)
  else
    redis.call('SET', key, text, 'PX', int(math.ceil((last - call.now + call.margin_us) / 1000)))
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
