-- Extends a live lease and never shortens it. Mirrors `Lock::renew`.
-- Key: the lock. Arguments: lease id, TTL or ''.
-- Reply: renewed, lease; lost, reason
function verbs.renew(call, lock_key, id, ttl)
  local l, released = load(lock_key, call)
  if not l or l.reserved or l.id ~= id then return lost_reply(l) end
  if ttl ~= '' then l.ttl = ttl end
  l.deadline = math.max(l.deadline, call.now + l.ttl)
  l.renewals = int(l.renewals + 1)
  l.attempt = ''
  save(lock_key, l, released, call)
  count_lease(lock_key, wide(l.deadline), call)
  call.writes = call.writes + 1
  return lease_reply('renewed', l)
end
