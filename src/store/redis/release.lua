-- Ends a live lease and remembers that; a repetition succeeds too. Whoever waits first is next. Mirrors `Lock::release`.
-- Key: the lock. Arguments: lease id, how long to remember, how many to remember.
-- Reply: {'ended'} if it was over | {'ended', for how long it was held} | {'lost', reason}
function verbs.release(call, lock_key, id, memory_us, most)
  local lock = load(lock_key, call)
  if was_released(lock, id, call) then return { 'ended' } end
  local l = lock.live
  if not l or l.reserved or l.id ~= id then return lost_reply(lock) end
  remember(lock, id, l.idem, memory_us, tonumber(most), call)
  lock.live = nil
  pass_on(lock_key, lock, call)
  return { 'ended', int(math.max(0, call.now - l.acquired)) }
end
