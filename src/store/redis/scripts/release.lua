-- Ends a live lease and remembers that for its repetition. Mirrors `Lock::release`.
-- Arguments: lease id. Reply: ended, when it was acquired or '' if it was over; lost, reason
return function(key, id)
  local lock, ending = load(key), need('ending')
  local lease = ending.lease_of(lock, id)
  if not lease then
    local ended = ending.is_released(lock, id) or need('releases').has_lease(key, id)
    return ended and 'ended\t' or ending.lost_reply(lock, id)
  end
  need('releases').add(key, id, lease.idem)
  ending.release(lock, lease)
  return ending.ended_reply(lease)
end
