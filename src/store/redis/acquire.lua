-- Takes a free lock that nobody waits for ahead, or waits for it. Asked again with the same lease id, a waiter
-- takes what was reserved for it, or gets back its place. Mirrors `Lock::acquire`.
-- Key: the lock. Arguments: lease id, attempt, TTL, idempotency key, idempotency request, holder,
-- metadata, how long it waits ('' if not), its ticket if it had one, the most that may wait.
-- Reply: {'granted' | 'replayed', lease} | {'held', waiters, position or '', holding} |
-- {'queued', waiters, ticket, holding} | {'too_many_waiters'} | {'key_reused'} | {'already_released'} |
-- {'recovering', for how long}
function verbs.acquire(call, lock_key, id, attempt, ttl, idem, request, holder, metadata, within, ticket, room)
  local lock = load(lock_key, call)
  local l = lock.live
  if l and not l.reserved then
    if l.id == id then return lease_reply('granted', l) end
    if idem ~= '' and l.idem == idem then
      if l.request ~= request then return { 'key_reused' } end
      l.attempt = ''
      l.deadline = math.max(l.deadline, l.acquired + l.ttl)
      save(lock_key, lock, call)
      call.writes = call.writes + 1
      return lease_reply('replayed', l)
    end
  end
  -- It is repeated, or a command of it comes late.
  if was_released(lock, id, call) or idem ~= '' and was_released_as(lock, idem, call) then
    return { 'already_released' }
  end

  local queue, waiter = queue_of(lock_key, call), waiter_id(id, idem)
  local place = {
    id = id, attempt = attempt, ttl = tonumber(ttl), idem = idem, request = request, holder = holder,
    metadata = metadata, server = call.server,
  }
  local waiting = redis.call('ZCARD', queue.tickets)
  if waiting > 0 then
    prune(queue, call)
    waiting = tonumber(waiters(queue, call))
  end
  local known = waiting > 0 and load_place(queue, waiter)
  if known then
    if known.request ~= request then return { 'key_reused' } end
    -- The latest request that waits has the place; one that waits no more ends it only if it is its own.
    local own = known.attempt == attempt
    known = redis.call('ZSCORE', queue.tickets, waiter)
    if within ~= '' or own then
      save_place(queue, waiter, place, known, call.now + (tonumber(within) or 0), call)
    end
  end
  if not l and waiting > 0 then
    reserve(lock, queue, waiter, call)
    l = lock.live
    -- Somebody else's turn, or one's own.
    if l then save(lock_key, lock, call) end
  end

  -- Gives the request the place that it had, or the last one; false if there is no room.
  local function take_place()
    if not known then
      known = ticket
      if known == '' then
        if waiting >= tonumber(room) then return false end
        known = int(redis.call('HINCRBY', call.meta_key, 'token', 1))
      end
    end
    save_place(queue, waiter, place, known, call.now + within, call)
    return true
  end

  if l and not (l.reserved and waiter_id(l.id, l.idem) == waiter) then
    if within ~= '' then
      if not take_place() then return { 'too_many_waiters' } end
      return standing_reply('queued', queue, known, l, call)
    end
    local position = ''
    if known then
      position = int(redis.call('ZRANK', queue.tickets, waiter) + 1)
      if idem == '' then drop_place(queue, waiter) end
    end
    return standing_reply('held', queue, position, l, call)
  end

  if call.paused_us > 0 then
    -- Whoever asks first when that is over is not who came first.
    if not l and within ~= '' and not take_place() then return { 'too_many_waiters' } end
    return { 'recovering', int(call.paused_us) }
  end
  if l then
    if l.request ~= request then return { 'key_reused' } end
    redis.call('HDEL', call.turns_key, queue.lock)
    l.reserved, l.id, l.attempt, l.acquired, l.deadline = nil, id, attempt, call.now, call.now + l.ttl
  else
    -- The token first: if the next write fails, a token is lost, but none is given twice.
    local token = int(redis.call('HINCRBY', call.meta_key, 'token', 1))
    l = place
    l.token, l.acquired, l.deadline, l.renewals = token, call.now, call.now + ttl, 0
  end
  lock.live = l
  save(lock_key, lock, call)
  if waiting > 0 then announce(queue, l.ttl, call) end
  call.writes = call.writes + 1
  return lease_reply('granted', l)
end
