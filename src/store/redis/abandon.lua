-- Takes back a grant that nobody has touched since the attempt. Mirrors `Lock::abandon`.
-- Key: the lock. Arguments: lease id, attempt, how much to keep or '' for nothing.
-- Reply: {'abandoned'} | {'void'}
function verbs.abandon(call, lock_key, id, attempt, keep)
  local lock = load(lock_key, call)
  local l = lock.live
  if not l or l.id ~= id or l.attempt ~= attempt then return { 'void' } end
  if keep == '' then
    lock.live = nil
    redis.call('DEL', lock_key)
  else
    l.deadline = math.min(l.deadline, call.now + keep)
  end
  save(lock_key, lock, call)
  return { 'abandoned' }
end
