-- Ends a live lease and remembers that for its repetition. Mirrors `Lock::release`.
-- Arguments: lease id. Reply: ended, when it was acquired or '' if it was over; lost, reason
return function(key, id)
  local lock, ending = load(key), need('ending')
  local lease = ending.lease_of(lock, id)
  if not lease then return need('releases').has_lease(key, id) and 'ended\t' or ending.lost_reply(lock) end
  need('releases').add(key, id, lease.idem)
  ending.let_go(lock, lease)
  return ending.ended_reply(lease)
end
