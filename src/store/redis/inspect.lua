-- Says what anyone may know of a lock. Mirrors `Lock::holding`.
-- Key: the lock.
-- Reply: {'held', holding} | {'free'}
function verbs.inspect(call, lock_key)
  local l = load(lock_key, call).live
  if l then return holding_reply('held', l) end
  return { 'free' }
end
