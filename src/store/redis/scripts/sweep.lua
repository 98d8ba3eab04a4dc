-- Ends what is over: counts expired leases, hands locks to their waiters, and removes locks without content. Repairs the
-- index of leases if it does not have one member for each lock.
-- Arguments: a mark for a new index. Reply: swept, '1' if there is more to do
return function(_, new_mark)
  local since = match(releases, '^%d (%d+)')
  if since and now - since >= 2 * RELEASE_MEMORY_US then
    -- Both hashes of releases are too old to matter.
    ctx.drops_releases, ctx.operation.changed = true, true
  end
  local rebuild = rcall('HGET', LOCKS, '#rebuild')
  local members = rcall('ZCARD', LEASES)
  if rebuild == '' and members ~= rcall('HLEN', LOCKS) - RECORD_FIELDS then
    -- A member was evicted or removed. Cursors of listings belong to the old index.
    ctx.rebuild, ctx.index, ctx.operation.changed = '0', new_mark, true
    return 'swept\t1'
  end
  local keys, more = nil, false
  if rebuild ~= '' then
    local step = rcall('HSCAN', LOCKS, rebuild, 'COUNT', MAX_SWEPT)
    keys = {}
    for at = 1, #step[2], 2 do
      local key = step[2][at]
      if not find(key, '^#') then
        keys[#keys + 1] = key
        ctx.texts[key] = ctx.texts[key] or step[2][at + 1]
      end
    end
    more = step[1] ~= '0'
    ctx.rebuild, ctx.operation.changed = more and step[1] or '', true
  else
    keys = rcall('ZRANGEBYSCORE', LEASES, '-inf', int(expired_at), 'LIMIT', 0, MAX_SWEPT)
    if #keys == 0 then return 'swept\t' end
    more = #keys == MAX_SWEPT
    for at, text in ipairs(rcall('HMGET', LOCKS, unpack(keys))) do
      ctx.texts[keys[at]] = text or nil
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
