-- Extends a live lease and never shortens it. Mirrors `Lock::renew`.
-- Key: the lock. Arguments: lease id, TTL or ''.
-- Reply: {'renewed', lease} | {'lost', reason}
function verbs.renew(call, lock_key, id, ttl)
  local lock = load(lock_key, call)
  local l = lock.live
  if not l or l.reserved or l.id ~= id then return lost_reply(lock) end
  if ttl ~= '' then l.ttl = tonumber(ttl) end
  l.deadline = math.max(l.deadline, call.now + l.ttl)
  l.renewals = l.renewals + 1
  l.attempt = ''
  save(lock_key, lock, call)
  call.writes = call.writes + 1
  return lease_reply('renewed', l)
end
