-- Ends what is over: counts expired leases, hands locks to their waiters, and removes locks without content. Repairs
-- the index of leases if it does not have one member for each lock.
-- Arguments: a mark for a new index. Reply: swept, '1' if there is more to do
return function(_, new_mark)
  local since = batch.remembers and string.match(batch.remembers, '^%d (%d+)')
  if since and now - since >= 2 * RELEASE_MEMORY_US then
    -- Both hashes of releases are too old to matter.
    batch.drops_releases, batch.operation.changed = true, true
  end
  local rebuild = redis.call('HGET', batch.LOCKS, '#rebuild')
  local members = redis.call('ZCARD', batch.LEASES)
  if rebuild == '' and members ~= redis.call('HLEN', batch.LOCKS) - RECORD_FIELDS then
    -- A member was evicted or removed. Cursors of listings belong to the old index.
    batch.rebuild, batch.index, batch.operation.changed = '0', new_mark, true
    return 'swept\t1'
  end
  local keys, more = nil, false
  if rebuild ~= '' then
    local step = redis.call('HSCAN', batch.LOCKS, rebuild, 'COUNT', MAX_SWEPT)
    keys = {}
    for at = 1, #step[2], 2 do
      local key = step[2][at]
      if not string.find(key, '^#') then
        keys[#keys + 1] = key
        know(key, step[2][at + 1])
      end
    end
    more = step[1] ~= '0'
    batch.rebuild, batch.operation.changed = more and step[1] or '', true
  else
    keys = redis.call('ZRANGEBYSCORE', batch.LEASES, '-inf', int(batch.expired_at), 'LIMIT', 0, MAX_SWEPT)
    if #keys == 0 then return 'swept\t' end
    more = #keys == MAX_SWEPT
    for at, text in ipairs(redis.call('HMGET', batch.LOCKS, unpack(keys))) do
      know(keys[at], text)
    end
  end
  for _, key in ipairs(keys) do
    local lock = load(key)
    if lock.queued then
      local queue = need('queue')
      queue.prune(lock)
      if not live(lock) then queue.hand_over(lock) end
    end
    change(lock)
  end
  return more and 'swept\t1' or 'swept\t'
end
