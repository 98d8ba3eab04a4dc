-- Ends the live lease that has this token, whoever holds it. Mirrors `Lock::break_lease`.
-- Key: the lock. Arguments: fencing token.
-- Reply: {'ended'} if it was over, or only reserved | {'ended', for how long it was held} | {'lost', reason}
verbs['break'] = function(call, lock_key, token)
  local lock = load(lock_key, call)
  local l = lock.live
  if not l then return { 'ended' } end
  if l.token ~= token then return lost_reply(lock) end
  lock.live = nil
  pass_on(lock_key, lock, call)
  return { 'ended', not l.reserved and int(math.max(0, call.now - l.acquired)) or nil }
end
