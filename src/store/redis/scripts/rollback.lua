-- Takes back the grant, the reservation or the queue entry of a request whose client is gone. Mirrors `Lock::rollback`.
-- Arguments: the waiter's id, lease id, attempt, and how much of a lease to keep or ''; with it an entry is kept too.
-- Reply: rolled_back; unchanged
return function(key, arguments)
  local waiter, id, attempt, keep = string.match(arguments, '^(%x+)\t(%x+)\t(%d+)\t(%d*)$')
  local lock = load(key)
  local queue = need('queue')
  for _, lease in ipairs(lock.leases) do
    if lease.id == id then
      if lease.attempt ~= attempt then return 'unchanged' end
      if keep ~= '' and not lease.ticket then
        lease.kind, lease.deadline, lock.let_go = 'S', math.min(lease.deadline, now + keep), true
        change(lock, lease)
        return 'rolled_back'
      end
      if keep ~= '' then queue.keep(lock, waiter, lease, lease.ticket) end
      need('ending').let_go(lock, lease)
      return 'rolled_back'
    end
  end
  local entry = lock.queued and queue.find(lock, waiter)
  if not entry or entry.id ~= id or entry.attempt ~= attempt then return 'unchanged' end
  queue.drop(lock, waiter)
  if keep ~= '' then queue.keep(lock, waiter, entry, entry.ticket) end
  return 'rolled_back'
end
