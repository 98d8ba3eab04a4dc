-- How a lock is written in Redis, and the parts that all verbs share. Mirrors `lock/rules.rs`.
--
-- The value of a lock key is text, a record a line, its fields set apart by tabs (no field can hold
-- a tab or a line feed: they are not printable characters):
--   L  lease id, fencing token, acquired at, deadline, idempotency key, TTL, renewals, attempt, idempotency request,
--      ticket and server of the waiter that it was reserved for, holder, metadata as JSON
--   T  the same of a lock that is reserved: it is a waiter's turn   one line for each holder
--   R  lease id, forget at                                          one line for each remembered release
--   I  lease id, idempotency key, forget at                         the same, if it had an idempotency key
-- Moments and durations are in microseconds. Absent values are empty. What is asked for most is at places that are
-- known: numbers up to the deadline and the moments of releases have sixteen digits, and of their ids lines of releases
-- have the second half.

-- First bytes of lines, and what sets fields apart.
local LEASE, TURN, PLAIN, REPEATABLE, TAB = 76, 84, 82, 73, 9

-- Where fields stand in the line of a lease, and what comes behind those at known places.
local ID, ID_END, TOKEN, TOKEN_END, ACQUIRED, ACQUIRED_END, DEADLINE, DEADLINE_END, REST = 3, 34, 36, 51, 53, 68, 70, 85, 87
local FIELDS = '^(%x*)\t(%d+)\t(%d+)\t(%d*)\t(%x*)\t(%d*)\t(%x*)\t([^\t]*)\t([^\n]*)\n'

-- Bytes of a line of a release, by its first byte; of the half of an id, and of a moment.
local RELEASE_BYTES, HALF_ID, MOMENT = { [PLAIN] = 36, [REPEATABLE] = 53 }, 16, 16

-- How long a release is remembered, and how many of a lock.
local RELEASE_MEMORY_US, MAX_RELEASES = 10000000, 16

local byte, find, match, sub, format, ceil = string.byte, string.find, string.match, string.sub, string.format, math.ceil

-- Lua's own conversion would write a token as 1.79e+15.
local function int(number)
  return format('%d', number)
end

-- A number at a known place.
local function wide(number)
  return format('%016d', number)
end

-- The text of a lock, which the batch has read already.
local function text_of(key, call)
  -- Of a key that holds something else it was told nothing, and this fails.
  return call.texts[key] or redis.call('GET', key) or ''
end

-- Whether a moment of sixteen digits lies ahead. As text: reading the number would take longer.
local function lies_ahead(moment, call)
  return call.now_wide < moment
end

-- The moment at which a release is forgotten whose line ends at `ends`.
local function forgotten_at(text, ends)
  return sub(text, ends - MOMENT, ends - 1)
end

-- Where the releases begin that are still remembered, in a text that has releases from `from` on, the oldest first.
local function remembered_from(text, from, call)
  while from < #text do
    local next_from = from + RELEASE_BYTES[byte(text, from)]
    if lies_ahead(forgotten_at(text, next_from - 1), call) then break end
    from = next_from
  end
  return from
end

-- They stay text: a lock that changes hands quickly has sixteen, and hardly anybody asks for one of them.
local function remembered(text, from, call)
  from = remembered_from(text, from, call)
  return from == 1 and text or sub(text, from)
end

-- How long a lease counts beyond its deadline: one that was granted before this activation has the deadline of another
-- node's clock, and the rules know but one.
local function outlasts(text, call)
  return call.skew_us and tonumber(sub(text, TOKEN, TOKEN_END)) <= call.taken_over_below and call.skew_us or 0
end

-- Whether the first line of a text is a live lease, and where the next one begins.
local function standing(text, key, call)
  local kind = byte(text)
  if kind ~= LEASE and kind ~= TURN then return false, 1 end
  local deadline = sub(text, DEADLINE, DEADLINE_END)
  local live = call.expired_wide < deadline or call.expired_at < tonumber(deadline) + outlasts(text, call)
  if not live and kind == LEASE then call.over[key] = true end
  return live, find(text, '\n', REST, true) + 1
end

-- Reads a lock as it is now: its live lease if it has one, and the releases still remembered.
-- What is over is not read, and so is dropped by the next write.
local function load(key, call)
  local text = text_of(key, call)
  local live, after = standing(text, key, call)
  local l
  if live then
    local deadline = tonumber(sub(text, DEADLINE, DEADLINE_END))
    local idem, ttl, renewals, attempt, request, ticket, server, holder, metadata = match(text, FIELDS, REST)
    l = {
      id = sub(text, ID, ID_END), token = sub(text, TOKEN, TOKEN_END), acquired = sub(text, ACQUIRED, ACQUIRED_END),
      deadline = deadline, ttl = ttl, renewals = renewals, attempt = attempt, idem = idem, request = request,
      reserved = byte(text) == TURN and ticket or nil, server = server, holder = holder, metadata = metadata,
      over_at = deadline + outlasts(text, call) + call.now - call.expired_at,
    }
  end
  return l, remembered(text, after, call)
end

-- Whether a release is remembered that has this id: its lease id, or the idempotency key that it had.
local function is_remembered(released, id, is_lease_id, call)
  if released == '' then return false end
  local half = sub(id, -HALF_ID)
  local at = find(released, half, 1, true)
  while at do
    -- A lease id stands behind the line's first letter, an idempotency key behind a lease id.
    local begins_line = RELEASE_BYTES[byte(released, at - 2)] ~= nil
    if begins_line == is_lease_id and byte(released, at + HALF_ID) == TAB then
      return lies_ahead(forgotten_at(released, find(released, '\n', at, true)), call)
    end
    at = find(released, half, at + 1, true)
  end
  return false
end

local function was_released(released, id, call)
  return is_remembered(released, id, true, call)
end

local function was_released_as(released, idem, call)
  return is_remembered(released, idem, false, call)
end

-- Whether as many releases are remembered as may be, from `from` on. Mostly their length tells: no other number of lines,
-- and no mixture of both kinds, is as long as so many of the plain ones.
local function is_full(text, from)
  local count, bytes = 0, #text - from + 1
  if bytes < MAX_RELEASES * RELEASE_BYTES[PLAIN] then return false end
  if bytes == MAX_RELEASES * RELEASE_BYTES[PLAIN] then return true end
  while from < #text do
    count, from = count + 1, from + RELEASE_BYTES[byte(text, from)]
  end
  return count == MAX_RELEASES
end

-- The releases of a text that are still remembered, from `from` on, and one more.
local function remember(text, from, id, idem, call)
  from = remembered_from(text, from, call)
  if is_full(text, from) then from = from + RELEASE_BYTES[byte(text, from)] end
  local before, forget_at = sub(text, from), wide(call.now + RELEASE_MEMORY_US)
  if idem == '' then return before .. 'R\t' .. sub(id, -HALF_ID) .. '\t' .. forget_at .. '\n' end
  return before .. 'I\t' .. sub(id, -HALF_ID) .. '\t' .. sub(idem, -HALF_ID) .. '\t' .. forget_at .. '\n'
end

-- Writes a lock. The Redis TTL only collects garbage: a margin after the last moment that
-- matters, so that no node's own clock can end a lease.
local function write(key, text, last, call)
  local lasts = last - call.now
  local kept_ms = call.kept_ms[lasts]
  if not kept_ms then
    kept_ms = int(ceil((lasts + call.margin_us) / 1000))
    call.kept_ms[lasts] = kept_ms
  end
  redis.call('SET', key, text, 'PX', kept_ms)
  call.texts[key], call.has_written = text, true
end

-- Removes a lock that has nothing to say. It needs no memory.
local function remove(key, call)
  redis.call('DEL', key)
  call.texts[key], call.has_written = nil, true
end

-- The line of a lease.
local function line_of(l)
  return (l.reserved and 'T\t' or 'L\t') .. l.id .. '\t' .. l.token .. '\t' .. l.acquired .. '\t' .. wide(l.deadline)
    .. '\t' .. l.idem .. '\t' .. l.ttl .. '\t' .. l.renewals .. '\t' .. l.attempt .. '\t' .. l.request .. '\t' .. (l.reserved or '')
    .. '\t' .. (l.reserved and l.server or '') .. '\t' .. l.holder .. '\t' .. l.metadata .. '\n'
end

-- A lease is held until then (in sixteen digits), or not any more (false): for the set of leases, which is written once
-- a batch.
local function count_lease(key, deadline, call)
  call.leases[key] = deadline
end

-- The moment from which on nothing is remembered.
local function last_of(released)
  return released ~= '' and tonumber(forgotten_at(released, #released)) or 0
end

local function save(key, l, released, call)
  if l then
    write(key, line_of(l) .. released, math.max(last_of(released), l.deadline), call)
  elseif released ~= '' then
    write(key, released, last_of(released), call)
  else
    remove(key, call)
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
local function ended_reply(reserved, acquired, call)
  return 'ended\t' .. (reserved and '' or int(math.max(0, call.now - acquired)))
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
  return wide(call.number)
end

local verbs = {}
