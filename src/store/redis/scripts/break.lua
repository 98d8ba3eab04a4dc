-- Ends the live lease with this token for any caller. Mirrors `Lock::break_lease`.
-- Arguments: fencing token. Reply: ended, when it was acquired or '' if it was over; lost, reason
return function(key, token)
  local lock, ending = load(key), need('ending')
  for _, lease in ipairs(lock.leases) do
    if lease.token == token then
      ending.let_go(lock, lease)
      return ending.ended_reply(lease)
    end
  end
  return live(lock) and 'lost\theld_by_other' or 'ended\t'
end
