-- Ends leases; for the operations that do.
local ending = {}

-- Whether a client can still renew, release or replay the lease.
local function is_leased(lease)
  return lease.kind ~= 'H' and not lease.ticket and batch.expired_at < lease.deadline + lease.grace
end

-- The lease with this id that its client still has.
function ending.lease_of(lock, id)
  for _, lease in ipairs(lock.leases) do
    if lease.id == id and is_leased(lease) then return lease end
  end
end

-- Whether the lease with this id was released, and its lock is held for longer.
function ending.is_released(lock, id)
  local lease = live(lock)
  return lease and lease.kind == 'H' and lease.id == id
end

function ending.lost_reply(lock, id)
  if ending.is_released(lock, id) then return 'lost\treleased' end
  local lease = live(lock)
  return lease and (lease.ticket or is_leased(lease)) and 'lost\theld_by_other' or 'lost\tnot_held'
end

-- Since when the lease was held; a reservation was not.
function ending.ended_reply(lease)
  return 'ended\t' .. (lease.ticket and '' or lease.acquired)
end

-- Releases a lease. The lock is held for as long as asked.
function ending.release(lock, lease)
  if lease.hold == '' or now >= lease.acquired + lease.hold then return ending.let_go(lock, lease) end
  lease.kind, lease.attempt, lease.deadline, lock.let_go = 'H', '', math.min(lease.deadline, now), true
  change(lock, lease)
  if lock.queued then need('queue').announce(lock, over_at(lease) - now) end
end

-- Removes a lease. The lock goes to the first waiter, if there is one.
function ending.let_go(lock, lease)
  for at, other in ipairs(lock.leases) do
    if other == lease then table.remove(lock.leases, at) end
  end
  lock.let_go = true
  change(lock)
  if lease.ticket then batch.reservations[lock.key] = false end
  if lock.queued then need('queue').hand_over(lock) end
end

return ending
