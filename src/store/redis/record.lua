-- How a lock is written in Redis, and the parts that all verbs share. Mirrors `lock/rules.rs`.
--
-- The value of a lock key is text, a record a line, its fields set apart by tabs (no field can hold
-- a tab or a line feed: they are not printable characters):
--   L  lease id, fencing token, acquired at, deadline, TTL, renewals, attempt, idempotency key,
--      idempotency request, ticket and server of the waiter that it is reserved for, holder, metadata as JSON
--                                                               one line for each holder
--   R  lease id, idempotency key, forget at                      one line for each remembered release
-- Moments and durations are in microseconds. Absent values are empty. Lines of releases are of one length, so that
-- nobody need read them to count them: of each id they have the second half, or as many dashes.

local LEASE = '^L\t(%x+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d+)\t(%d*)\t(%x*)\t(%x*)\t(%d*)\t(%x*)\t([^\t]*)\t([^\n]*)\n()'

-- Bytes of a line of a release, and of the half of an id in it.
local RELEASE_BYTES, HALF_ID = 53, 16

-- How long a release is remembered, and how many of a lock.
local RELEASE_MEMORY_US, MAX_RELEASES = 10000000, 16

local find, match, sub, format, ceil = string.find, string.match, string.sub, string.format, math.ceil

-- Lua's own conversion would write a token as 1.79e+15.
local function int(number)
  return format('%d', number)
end

-- The moment at which a release is forgotten whose line begins at `from`.
local function forgotten_at(released, from)
  return tonumber(sub(released, from + RELEASE_BYTES - 17, from + RELEASE_BYTES - 2))
end

-- Reads a lock as it is now: its live lease if it has one, and the releases still remembered.
-- What is over is not read, and so is dropped by the next write. A lease that was granted before this
-- activation outlasts its deadline by the skew: that deadline is of another node's clock, and the rules
-- know but one. The releases stay text, the oldest first: a lock that changes hands quickly has sixteen, and
-- hardly anybody asks for one of them.
local function load(key, call)
  local text = redis.call('GET', key)
  if not text then return nil, '' end
  local live, from = nil, 1
  while string.byte(text, from) == 76 do
    local id, token, acquired, deadline, ttl, renewals, attempt, idem, request, reserved, server, holder, metadata, after =
      match(text, LEASE, from)
    deadline = tonumber(deadline)
    local outlasts = tonumber(token) <= call.taken_over_below and call.skew_us or 0
    if call.expired_at < deadline + outlasts then
      live = {
        id = id, token = token, acquired = acquired, deadline = deadline, ttl = ttl, renewals = renewals,
        attempt = attempt, idem = idem, request = request, reserved = reserved ~= '' and reserved or nil,
        server = server, holder = holder, metadata = metadata,
        over_at = deadline + outlasts + call.now - call.expired_at,
      }
    elseif reserved == '' then
      call.over[key] = true
    end
    from = after
  end
  while from < #text and call.now >= forgotten_at(text, from) do
    from = from + RELEASE_BYTES
  end
  return live, from == 1 and text or sub(text, from)
end

-- Whether the release that has `half` of an id at this place of its line is remembered.
local function is_remembered(released, half, place, call)
  local at = find(released, half, 1, true)
  while at do
    local from = at - place
    if from >= 1 and (from - 1) % RELEASE_BYTES == 0 then return call.now < forgotten_at(released, from) end
    at = find(released, half, at + 1, true)
  end
  return false
end

-- Whether the release with this lease id is remembered.
local function was_released(released, id, call)
  return released ~= '' and is_remembered(released, sub(id, -HALF_ID), 2, call)
end

-- Whether a release with this idempotency key is remembered.
local function was_released_as(released, idem, call)
  return released ~= '' and is_remembered(released, sub(idem, -HALF_ID), 3 + HALF_ID, call)
end

-- The remembered releases and one more.
local function remember(released, id, idem, call)
  local kept = (MAX_RELEASES - 1) * RELEASE_BYTES
  if #released > kept then released = sub(released, -kept) end
  return released .. 'R\t' .. sub(id, -HALF_ID) .. '\t' .. (idem ~= '' and sub(idem, -HALF_ID) or '----------------')
    .. '\t' .. format('%016d', call.now + RELEASE_MEMORY_US) .. '\n'
end

-- Writes a lock. The Redis TTL only collects garbage: a margin after the last moment that
-- matters, so that no node's own clock can end a lease.
local function write(key, text, last, call)
  redis.call('SET', key, text, 'PX', int(ceil((last - call.now + call.margin_us) / 1000)))
  call.has_written = true
end

-- The line of a lease.
local function line_of(l)
  return 'L\t' .. l.id .. '\t' .. l.token .. '\t' .. l.acquired .. '\t' .. int(l.deadline) .. '\t' .. l.ttl .. '\t' .. l.renewals
    .. '\t' .. l.attempt .. '\t' .. l.idem .. '\t' .. l.request .. '\t' .. (l.reserved or '') .. '\t'
    .. (l.reserved and l.server or '') .. '\t' .. l.holder .. '\t' .. l.metadata .. '\n'
end

-- A lease is held until then, or not any more (false): for the set of leases, which is written once a batch.
local function count_lease(key, deadline, call)
  call.leases[key] = deadline
end

local function save(key, l, released, call)
  local last = released ~= '' and forgotten_at(released, #released - RELEASE_BYTES + 1) or 0
  if l then
    write(key, line_of(l) .. released, math.max(last, l.deadline), call)
  elseif released ~= '' then
    write(key, released, last, call)
  else
    redis.call('DEL', key)
    call.has_written = true
  end
end

-- What a reply says of a live lease, after its id.
local function holding_of(l, deadline)
  return '\t' .. l.token .. '\t' .. l.acquired .. '\t' .. int(deadline) .. '\t' .. l.ttl .. '\t' .. l.renewals .. '\t' .. l.holder
    .. '\t' .. l.metadata
end

-- A lease with its secret, for its holder alone.
local function lease_reply(outcome, l)
  return outcome .. '\t' .. l.id .. holding_of(l, l.deadline)
end

-- That a lease was ended, and for how long it was held; what was only reserved was not.
local function ended_reply(l, call)
  return 'ended\t' .. (l.reserved and '' or int(math.max(0, call.now - l.acquired)))
end

local function lost_reply(l)
  return l and 'lost\theld_by_other' or 'lost\tnot_held'
end

-- The next fencing token or ticket. Numbers are drawn for the rest of the batch at once; those that are left over
-- are nobody's. The draw comes before what it is for: if a later write fails, numbers are lost, but none is
-- given twice.
local function next_number(call)
  if call.numbers_left == 0 then
    local drawn = call.operations_left
    call.number = redis.call('HINCRBY', call.meta_key, 'token', drawn) - drawn
    call.numbers_left, call.has_written = drawn, true
  end
  call.numbers_left, call.number = call.numbers_left - 1, call.number + 1
  return int(call.number)
end

local verbs = {}
