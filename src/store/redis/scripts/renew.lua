-- Extends a live lease and never shortens it. Mirrors `Lock::renew`.
-- Arguments: lease id, TTL or ''. Reply: renewed, lease; lost, reason
return function(key, arguments)
  local id, ttl = string.match(arguments, '^(%x+)\t(%d*)$')
  local lock = load(key)
  local ending = need('ending')
  local lease = ending.lease_of(lock, id)
  if not lease then return ending.lost_reply(lock, id) end
  if ttl ~= '' then lease.ttl = ttl end
  lease.deadline = math.max(lease.deadline, now + lease.ttl)
  lease.kind, lease.renewals, lease.attempt = 'L', int(lease.renewals + 1), ''
  batch.writes = batch.writes + 1
  change(lock, lease)
  return 'renewed\t' .. line_of(lease)
end
