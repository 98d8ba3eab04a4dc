-- Ends the live lease that has this token, whoever holds it. Mirrors `Lock::break_lease`.
-- Key: the lock. Arguments: fencing token.
-- Reply: ended, for how long it was held or '' if it was over or only reserved; lost, reason
verbs['break'] = function(call, lock_key, token)
  local l, released = load(lock_key, call)
  if not l then return 'ended\t' end
  if l.token ~= token then return lost_reply(l) end
  pass_on(lock_key, released, call)
  return ended_reply(l.reserved, l.acquired, call)
end
