-- Ends a live lease and remembers that; a repetition succeeds too. Whoever waits first is next. Mirrors `Lock::release`.
-- Key: the lock. Arguments: lease id, how long to remember, how many to remember.
-- Reply: {'ended'} | {'lost', reason}
function verbs.release(call, lock_key, id, memory_us, most)
  local lock = load(lock_key, call)
  for _, r in ipairs(lock.released) do
    if r.id == id then return { 'ended' } end
  end
  local l = lock.live
  if not l or l.reserved or l.id ~= id then return lost_reply(lock) end
  table.insert(lock.released, { id = id, forget = call.now + memory_us, idem = l.idem })
  while #lock.released > tonumber(most) do table.remove(lock.released, 1) end
  lock.live = nil
  pass_on(lock_key, lock, call)
  return { 'ended' }
end
