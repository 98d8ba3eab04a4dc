-- Ends leases; for the operations that do.
local ending = {}

-- The live lease with this id, which is no reservation.
function ending.lease_of(lock, id)
  for _, lease in ipairs(lock.leases) do
    if lease.id == id and not lease.ticket then return lease end
  end
end

function ending.lost_reply(lock)
  return live(lock) and 'lost\theld_by_other' or 'lost\tnot_held'
end

-- Since when the lease was held; a reservation was not.
function ending.ended_reply(lease)
  return 'ended\t' .. (lease.ticket and '' or lease.acquired)
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
