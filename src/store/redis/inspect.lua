-- Says what anyone may know of a lock. Mirrors `Lock::holding` and `Lock::waiters`.
-- Key: the lock.
-- Reply: held, waiters, '', holding; free, waiters
function verbs.inspect(call, lock_key)
  local l, queue = load(lock_key, call), queue_of(lock_key, call)
  if l then return standing_reply('held', queue, '', l, call) end
  return 'free\t' .. waiters(queue, call)
end
