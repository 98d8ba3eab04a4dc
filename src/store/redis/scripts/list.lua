-- One step of a scan over the held locks, by the index of leases: its cost does not depend on other keys in this Redis.
-- Arguments: mark of the index or '', cursor of ZSCAN, how many members to look at, where this step ended before, how
-- many bytes to read, pattern of keys, and the last key given of this step ('' for a new step).
-- Reply: {'page', mark, next cursor, 'cut' or 'whole', key, held, key, held, ...} in the order of the keys; rebuilding
return function(_, arguments)
  local mark, cursor, count, ended, max_bytes, pattern, given =
    string.match(arguments, '^(%x*)\t(%d+)\t(%d+)\t(%d*)\t(%d+)\t([^\t]*)\t(.*)$')
  local rebuild, index = unpack(redis.call('HMGET', batch.LOCKS, '#rebuild', '#index'))
  if rebuild ~= '' then return 'rebuilding' end
  -- A cursor of another index means nothing here: the scan begins again.
  if mark ~= index then cursor, ended, given = '0', '', '' end
  local step = redis.call('ZSCAN', batch.LEASES, cursor, 'MATCH', pattern, 'COUNT', count)
  local keys, bytes = {}, 0
  for at = 1, #step[2], 2 do keys[#keys + 1] = step[2][at] end
  table.sort(keys)
  local reply = { 'page', index, step[1], 'whole' }
  for _, key in ipairs(keys) do
    -- After a resize of Redis' table this is another step, and all of it counts.
    if step[1] ~= ended or key > given then
      know(key, redis.call('HGET', batch.LOCKS, key))
      local lock = load(key)
      local lease = live(lock)
      bytes = bytes + #(lock.text or '')
      if lease then
        reply[#reply + 1] = key
        local waiters = lock.queued and need('queue').count(lock) or 0
        reply[#reply + 1] = 'held\t' .. waiters .. '\t\t' .. line_of(lease)
        -- The cut is behind a lock that the reply has: the next step goes on from there.
        if bytes >= tonumber(max_bytes) then
          reply[4] = 'cut'
          break
        end
      end
    end
  end
  return reply
end
