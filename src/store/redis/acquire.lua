-- Takes a free lock. Mirrors `Lock::acquire`.
-- Key: the lock. Arguments: lease id, attempt, TTL, idempotency key, idempotency request, holder,
-- metadata, '1' if others wait ahead.
-- Reply: {'granted' | 'replayed', lease} | {'held', holding} | {'left_to_waiters'} | {'key_reused'} |
-- {'already_released'} | {'recovering', for how long}
function verbs.acquire(call, lock_key, id, attempt, ttl, idem, request, holder, metadata, behind)
  local lock = load(lock_key, call)
  local l = lock.live
  if l and idem ~= '' and l.idem == idem then
    if l.request ~= request then return { 'key_reused' } end
    l.attempt = ''
    l.deadline = math.max(l.deadline, l.acquired + l.ttl)
    save(lock_key, lock, call)
    call.writes = call.writes + 1
    return lease_reply('replayed', l)
  end
  if idem ~= '' then
    for _, r in ipairs(lock.released) do
      if r.idem == idem then return { 'already_released' } end
    end
  end
  if l then return holding_reply('held', l) end
  if call.paused_us > 0 then return { 'recovering', int(call.paused_us) } end
  if behind == '1' then return { 'left_to_waiters' } end
  -- The token first: if the next write fails, a token is lost, but none is given twice.
  local token = int(redis.call('HINCRBY', call.meta_key, 'token', 1))
  lock.live = {
    id = id, token = token, acquired = call.now, deadline = call.now + ttl, ttl = tonumber(ttl), renewals = 0,
    attempt = attempt, idem = idem, request = request, holder = holder, metadata = metadata,
  }
  save(lock_key, lock, call)
  call.writes = call.writes + 1
  return lease_reply('granted', lock.live)
end
