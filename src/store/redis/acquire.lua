-- Takes a free lock that nobody waits for ahead, or waits for it. Asked again with the same lease id, a waiter
-- takes what was reserved for it, or gets back its place. Mirrors `Lock::acquire`.
-- Key: the lock. Arguments: lease id, TTL, the line of its record from the idempotency key on (with no renewals, and
-- nobody's ticket and server), and '' or how long it waits, its ticket if it had one, and the most that may wait, set
-- apart by spaces.
-- Reply: granted, token, deadline (all else is as it was asked for, and begins now); granted | replayed, lease; held,
-- waiters, position or '', holding; queued, waiters, ticket, holding; too_many_waiters; key_reused; already_released;
-- recovering, for how long

local ASKED = '^(%x*)\t(%d+)\t0\t(%d+)\t(%x*)\t\t\t([^\t]*)\t([^\n]*)\n$'

-- What a request asks for, as a place has it.
local function asked_for(id, rest, call)
  local idem, ttl, attempt, request, holder, metadata = match(rest, ASKED)
  return {
    id = id, attempt = attempt, ttl = ttl, idem = idem, request = request, holder = holder, metadata = metadata,
    server = call.server,
  }
end

-- A lock that is somebody's, or that others wait for.
local function stand_in_line(call, lock_key, l, released, queue, waiting, asked, wait)
  local within, ticket, room = match(wait, '^(%d+) (%d*) (%d+)$')
  local waiter = waiter_id(asked.id, asked.idem)
  if waiting > 0 then
    prune(queue, call)
    waiting = tonumber(waiters(queue, call))
  end
  local known = waiting > 0 and load_place(queue, waiter)
  if known then
    if known.request ~= asked.request then return 'key_reused' end
    -- The latest request that waits has the place; one that waits no more ends it only if it is its own.
    local own = known.attempt == asked.attempt
    known = redis.call('ZSCORE', queue.tickets, waiter)
    if within or own then
      save_place(queue, waiter, asked, known, call.now + (within or 0), call)
    end
  end
  if not l and waiting > 0 then
    l = reserve(queue, waiter, call)
    -- Somebody else's turn, or one's own.
    if l then
      save(lock_key, l, released, call)
      count_lease(lock_key, false, call)
    end
  end

  -- Gives the request the place that it had, or the last one; false if there is no room.
  local function take_place()
    if not known then
      known = ticket
      if known == '' then
        if waiting >= tonumber(room) then return false end
        known = next_number(call)
      end
    end
    save_place(queue, waiter, asked, known, call.now + within, call)
    return true
  end

  if l and not (l.reserved and waiter_id(l.id, l.idem) == waiter) then
    if within then
      if not take_place() then return 'too_many_waiters' end
      return standing_reply('queued', queue, known, l, call)
    end
    local position = ''
    if known then
      position = int(redis.call('ZRANK', queue.tickets, waiter) + 1)
      if asked.idem == '' then drop_place(queue, waiter) end
    end
    return standing_reply('held', queue, position, l, call)
  end

  if call.paused_us > 0 then
    -- Whoever asks first when that is over is not who came first.
    if not l and within and not take_place() then return 'too_many_waiters' end
    return 'recovering\t' .. int(call.paused_us)
  end
  if l then
    if l.request ~= asked.request then return 'key_reused' end
    redis.call('HDEL', call.turns_key, queue.lock)
    l.reserved, l.id, l.attempt = nil, asked.id, asked.attempt
  else
    l = asked
    l.token, l.renewals = next_number(call), '0'
  end
  l.acquired, l.deadline = call.now_wide, call.now + l.ttl
  save(lock_key, l, released, call)
  count_lease(lock_key, wide(l.deadline), call)
  if waiting > 0 then announce(queue, l.ttl, call) end
  call.writes = call.writes + 1
  return lease_reply('granted', l)
end

function verbs.acquire(call, lock_key, id, ttl, rest, wait)
  local l, released = load(lock_key, call)
  local idem = byte(rest) ~= TAB and match(rest, '^%x+') or ''
  if l and not l.reserved then
    if l.id == id then return lease_reply('granted', l) end
    if idem ~= '' and l.idem == idem then
      if l.request ~= asked_for(id, rest, call).request then return 'key_reused' end
      l.attempt = ''
      l.deadline = math.max(l.deadline, l.acquired + l.ttl)
      save(lock_key, l, released, call)
      count_lease(lock_key, wide(l.deadline), call)
      call.writes = call.writes + 1
      return lease_reply('replayed', l)
    end
  end
  -- It is repeated, or a command of it comes late.
  if was_released(released, id, call) or idem ~= '' and was_released_as(released, idem, call) then
    return 'already_released'
  end
  local waiting = places(lock_key, call)
  if l or waiting > 0 or call.paused_us > 0 then
    return stand_in_line(call, lock_key, l, released, queue_of(lock_key, call), waiting, asked_for(id, rest, call), wait)
  end

  local token, deadline = next_number(call), call.now + ttl
  local until_then = wide(deadline)
  local text = 'L\t' .. id .. '\t' .. token .. '\t' .. call.now_wide .. '\t' .. until_then .. '\t' .. rest .. released
  write(lock_key, text, math.max(last_of(released), deadline), call)
  count_lease(lock_key, until_then, call)
  call.writes = call.writes + 1
  return 'granted\t' .. token .. '\t' .. until_then
end
