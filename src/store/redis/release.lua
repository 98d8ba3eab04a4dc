-- Ends a live lease and remembers that; a repetition succeeds too. Whoever waits first is next. Mirrors `Lock::release`.
-- Key: the lock. Arguments: lease id.
-- Reply: ended, for how long it was held or '' if it was over; lost, reason
function verbs.release(call, lock_key, id)
  local l, released = load(lock_key, call)
  if not l or l.reserved or l.id ~= id then
    return was_released(released, id, call) and 'ended\t' or lost_reply(l)
  end
  pass_on(lock_key, remember(released, id, l.idem, call), call)
  return ended_reply(l, call)
end
