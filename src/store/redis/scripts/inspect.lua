-- The public part of a lock. Mirrors `Lock::lease_info` and `Lock::waiters`.
-- Reply: held, waiters, '', lease; free, waiters
return function(key)
  local lock = load(key)
  local lease, waiters = live(lock), lock.queued and need('queue').count(lock) or 0
  if lease then return 'held\t' .. waiters .. '\t\t' .. line_of(lease) end
  return 'free\t' .. waiters
end
