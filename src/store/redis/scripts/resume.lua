-- Ends the pause of new grants after a loss: the operator knows that no holder of a lost lease is left. Waiters ask
-- again. Reply: resumed, for how long the pause would have gone on
return function()
  local left = math.max(0, redis.call('HGET', batch.LOCKS, '#recover') - now)
  if left > 0 then
    batch.resumes, batch.operation.changed = true, true
    table.insert(batch.published, { 'all', ASK })
  end
  return 'resumed\t' .. int(left)
end
