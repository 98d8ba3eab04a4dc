-- Ends the live lease that has this token, whoever holds it. Mirrors `Lock::break_lease`.
-- Key: the lock. Arguments: fencing token.
-- Reply: {'ended'} | {'lost', reason}
verbs['break'] = function(call, lock_key, token)
  local lock = load(lock_key, call)
  if not lock.live then return { 'ended' } end
  if lock.live.token ~= token then return lost_reply(lock) end
  lock.live = nil
  pass_on(lock_key, lock, call)
  return { 'ended' }
end
