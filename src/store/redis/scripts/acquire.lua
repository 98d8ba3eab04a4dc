-- Grants the lock if it is free and no waiter is ahead, or lets the request wait. Mirrors `Lock::acquire`.
-- Arguments: lease id, idempotency key, attempt, TTL, fingerprint, wait, ticket, the most waiters, holder, metadata; wait is
-- empty if the request does not wait.
-- Reply: granted | replayed, lease; held, waiters, position, info; queued, waiters, ticket, info; too_many_waiters;
-- key_reused; already_released; recovering, for how long
local REQUEST = '^' .. FOUR .. FOUR .. '([^\t]*)\t(.*)$'

return function(key, arguments)
  local id, idem, attempt, ttl, fingerprint, wait, ticket, max_waiters, holder, metadata = match(arguments, REQUEST)
  local lock = load(key)
  local lease = live(lock)
  if lease and not lease.ticket then
    if lease.id == id and now < lease.deadline then return reply_about(lease, 'granted\t' .. id, lease.deadline) end
    if idem ~= '' and lease.idem == idem then
      if lease.fingerprint ~= fingerprint then return 'key_reused' end
      local whole = lease.acquired + lease.ttl
      -- In its grace a lease is over for its holder.
      if now < lease.deadline then
        lease.attempt, lease.deadline = '', max(lease.deadline, whole)
        ctx.writes = ctx.writes + 1
        change(lock)
        return reply_about(lease, 'replayed\t' .. lease.id, lease.deadline)
      end
    end
  end
  if (releases ~= '' or ctx.releases) and need('releases').has(key, id, idem) then return 'already_released' end

  local waiter = idem ~= '' and idem or id
  local queue, entry
  local asked = {
    id = id, attempt = attempt, ttl = ttl, idem = idem, fingerprint = fingerprint, server = server, holder = holder,
    metadata = metadata,
  }
  if lock.queued then
    queue = need('queue')
    queue.prune(lock)
    entry = queue.find(lock, waiter)
    if entry and entry.kept <= now then entry = nil end
    if entry then
      if entry.fingerprint ~= fingerprint then return 'key_reused' end
      ticket = entry.ticket
      -- The latest waiting request owns the entry. A request that no longer waits ends only its own entry.
      if wait ~= '' or entry.attempt == attempt then
        queue.put(lock, waiter, asked, ticket, now + (tonumber(wait) or 0))
      end
    end
    lease = lease or queue.reserve(lock, waiter)
  end

  local is_own = lease and lease.ticket and (lease.idem ~= '' and lease.idem or lease.id) == waiter
  if lease and not is_own then
    if wait ~= '' then
      ticket = need('queue').join(lock, waiter, asked, ticket, wait, max_waiters)
      if not ticket then return 'too_many_waiters' end
      queue = need('queue')
      return reply_about(lease, 'queued\t' .. queue.count(lock) .. '\t' .. ticket, over_at(lease))
    end
    local position = ''
    if entry then
      position = queue.ahead(lock, entry.ticket) + 1
      if idem == '' then queue.drop(lock, waiter) end
    end
    local waiting = queue and queue.count(lock) or 0
    return reply_about(lease, 'held\t' .. waiting .. '\t' .. position, over_at(lease))
  end
  if paused_us > 0 then
    -- The queue keeps the order of those who wait for the end of the pause.
    local waits = not lease and wait ~= ''
    if waits and not need('queue').join(lock, waiter, asked, ticket, wait, max_waiters) then return 'too_many_waiters' end
    return 'recovering\t' .. int(paused_us)
  end
  if lease then
    if lease.fingerprint ~= fingerprint then return 'key_reused' end
    ctx.reservations[key] = false
    lease.id, lease.attempt, lease.ticket, lease.server = id, attempt, nil, nil
  else
    lease, asked.token, asked.renewals = asked, next_number(), '0'
    lock.leases[#lock.leases + 1] = lease
  end
  lease.acquired, lease.deadline, lease.grace = now_text, now + lease.ttl, own_grace
  ctx.writes = ctx.writes + 1
  change(lock)
  if lock.queued and queue.count(lock) > 0 then queue.announce(lock, lease.ttl + lease.grace) end
  return reply_about(lease, 'granted\t' .. id, lease.deadline)
end
