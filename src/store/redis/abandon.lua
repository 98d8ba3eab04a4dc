-- Takes back what a request got and nobody has touched since its attempt: a grant, a reservation or a place.
-- Mirrors `Lock::abandon`.
-- Key: the lock. Arguments: waiter's id, lease id, attempt, how much to keep of a grant or '' for nothing; with
-- it a place is kept too.
-- Reply: abandoned; void
function verbs.abandon(call, lock_key, waiter, id, attempt, keep)
  local l, released = load(lock_key, call)
  local queue = queue_of(lock_key, call)
  if l and l.id == id then
    if l.attempt ~= attempt then return 'void' end
    if keep ~= '' and not l.reserved then
      l.deadline = math.min(l.deadline, call.now + keep)
      save(lock_key, l, released, call)
      count_lease(lock_key, wide(l.deadline), call)
      return 'abandoned'
    end
    if l.reserved then
      redis.call('HDEL', call.turns_key, queue.lock)
      if keep ~= '' then save_place(queue, waiter, l, l.reserved, call.now, call) end
    end
    pass_on(lock_key, released, call)
    return 'abandoned'
  end
  local place = load_place(queue, waiter)
  if not place or place.id ~= id or place.attempt ~= attempt then return 'void' end
  local ticket = redis.call('ZSCORE', queue.tickets, waiter)
  drop_place(queue, waiter)
  if keep ~= '' then save_place(queue, waiter, place, ticket, call.now, call) end
  return 'abandoned'
end
