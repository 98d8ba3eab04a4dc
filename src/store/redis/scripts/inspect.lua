-- The public part of a lock. Mirrors `Lock::lease_info` and `Lock::waiters`.
-- Reply: held, waiters, '', info; free, waiters
return function(key)
  local lock = load(key)
  local lease, waiters = live(lock), lock.queued and need('queue').count(lock) or 0
  if lease then return reply_about(lease, 'held\t' .. waiters .. '\t', over_at(lease)) end
  return 'free\t' .. waiters
end
