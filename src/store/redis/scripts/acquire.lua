-- Grants the lock if it is free and no waiter is ahead, or lets the request wait. Mirrors `Lock::acquire`.
-- Arguments: a line with the request as a lease keeps it, which begins with lease id, idempotency key and fingerprint;
-- a line with attempt, TTL with '+' and how long the lock is held at least, wait, ticket and the most waiters. Wait is
-- empty if the request does not wait.
-- Reply: granted | replayed, lease; held, waiters, position, lease; queued, waiters, ticket, lease; too_many_waiters;
-- key_reused; already_released; recovering, for how long
local ARGUMENTS = '^(([^\t]*)\t([^\t]*)\t([^\t]*)[^\n]*)\n([^\t]*)\t([^\t+]*)%+?([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$'

return function(key, arguments)
  local request, id, idem, fingerprint, attempt, ttl, hold, wait, ticket, max_waiters =
    string.match(arguments, ARGUMENTS)
  local lock = load(key)
  local lease = live(lock)
  if lease and not lease.ticket then
    if lease.id == id and now < lease.deadline then return 'granted\t' .. line_of(lease) end
    if idem ~= '' and lease.idem == idem then
      if lease.fingerprint ~= fingerprint then return 'key_reused' end
      if lease.kind == 'H' then return 'already_released' end
      local whole = lease.acquired + lease.ttl
      -- In its grace a lease is over for its holder.
      if now < lease.deadline then
        lease.kind, lease.attempt, lease.deadline = 'L', '', math.max(lease.deadline, whole)
        batch.writes = batch.writes + 1
        change(lock, lease)
        return 'replayed\t' .. line_of(lease)
      end
    end
  end
  if (batch.remembers or batch.releases) and need('releases').has(key, id, idem) then return 'already_released' end

  local waiter = idem ~= '' and idem or id
  -- The entry, and the lease, that the request gets.
  local asked = {
    kind = 'L', token = nil, acquired = batch.now_text, deadline = now + ttl, grace = batch.grace, ttl = ttl, hold = hold,
    renewals = '0', attempt = attempt, request = request, id = id, idem = idem, fingerprint = fingerprint, server = batch.server,
    line = nil,
  }
  local queue, entry
  if lock.queued then
    queue = need('queue')
    queue.prune(lock)
    entry = queue.find(lock, waiter)
    if entry and entry.kept <= now then entry = nil end
    if entry then
      if entry.fingerprint ~= fingerprint then return 'key_reused' end
      ticket = entry.ticket
      -- The latest waiting request owns the entry. A request that no longer waits ends only its own entry.
      if wait ~= '' then
        queue.put(lock, waiter, asked, ticket, now + wait)
      elseif entry.attempt == attempt then
        queue.keep(lock, waiter, asked, ticket)
      end
    end
    lease = lease or queue.reserve(lock, waiter)
  end

  local is_own = lease and lease.ticket and (lease.idem ~= '' and lease.idem or lease.id) == waiter
  if lease and not is_own then
    if wait ~= '' then
      queue = need('queue')
      ticket = queue.join(lock, waiter, asked, ticket, wait, max_waiters)
      if not ticket then return 'too_many_waiters' end
      return 'queued\t' .. queue.count(lock) .. '\t' .. ticket .. '\t' .. line_of(lease)
    end
    local position = ''
    if entry then
      position = queue.ahead(lock, entry.ticket) + 1
      if idem == '' then queue.drop(lock, waiter) end
    end
    local waiting = queue and queue.count(lock) or 0
    return 'held\t' .. waiting .. '\t' .. position .. '\t' .. line_of(lease)
  end
  if batch.paused_us > 0 then
    -- The queue keeps the order of those who wait for the end of the pause.
    local waits = not lease and wait ~= ''
    if waits and not need('queue').join(lock, waiter, asked, ticket, wait, max_waiters) then
      return 'too_many_waiters'
    end
    return 'recovering\t' .. int(batch.paused_us)
  end
  if lease then
    if lease.fingerprint ~= fingerprint then return 'key_reused' end
    batch.reservations[key] = false
    -- The same request may wait at other servers too.
    if idem ~= '' then table.insert(batch.published, { 'all', idem .. ' ' .. key }) end
    asked.token = lease.token
    for at, other in ipairs(lock.leases) do
      if other == lease then lock.leases[at] = asked end
    end
  else
    asked.token, lock.leases[#lock.leases + 1] = next_number(), asked
  end
  batch.writes = batch.writes + 1
  change(lock)
  if lock.queued and queue.count(lock) > 0 then queue.announce(lock, over_at(asked) - now) end
  return 'granted\t' .. line_of(asked)
end
