-- Ends a live lease and remembers that; a repetition succeeds too. Whoever waits first is next. Mirrors `Lock::release`.
-- Key: the lock. Arguments: lease id.
-- Reply: ended, for how long it was held or '' if it was over; lost, reason
function verbs.release(call, lock_key, id)
  local text = text_of(lock_key, call)
  local live, after = standing(text, lock_key, call)
  if not live or byte(text) == TURN or find(text, id, 1, true) ~= ID then
    return was_released(remembered(text, after, call), id, call) and 'ended\t' or lost_reply(live)
  end
  pass_on(lock_key, remember(text, after, id, match(text, '^%x*', REST), call), call)
  return ended_reply(false, sub(text, ACQUIRED, ACQUIRED_END), call)
end
