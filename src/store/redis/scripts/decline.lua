-- Takes back the reservation of a waiter whose server knows no such waiter. Mirrors `Lock::decline`.
-- Arguments: the waiter's id
-- Reply: rolled_back; unchanged
return function(key, waiter)
  for _, lease in ipairs(load(key).leases) do
    if lease.ticket and (lease.idem ~= '' and lease.idem or lease.id) == waiter then
      local keep = lease.idem ~= '' and '0' or ''
      return need('rollback')(key, table.concat({ waiter, lease.id, lease.attempt, keep }, '\t'))
    end
  end
  return 'unchanged'
end
