-- One step of a walk over the held locks.
-- Key: the prefix of all lock keys. Arguments: cursor of SCAN, pattern, how many keys to look at, where this step ended
-- and the last key that was given of it ('' if it was not begun), and about how many bytes to read.
-- Reply: {'page', next cursor, 'cut' or 'whole', key, holding, key, holding, ...} with whole Redis keys in their order
function verbs.list(call, _, cursor, pattern, count, ended, given, max_bytes)
  local step = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count, 'TYPE', 'string')
  local reply, keys, bytes = { 'page', step[1], 'whole' }, step[2], 0
  -- The order is Redis' own (its locale's), which only this script compares by.
  table.sort(keys)
  for _, redis_key in ipairs(keys) do
    -- After a change of Redis' table the step is another one, and is given anew.
    if step[1] ~= ended or redis_key > given then
      local l = load(redis_key, call)
      bytes = bytes + #text_of(redis_key, call)
      if l then
        table.insert(reply, redis_key)
        table.insert(reply, standing_reply('held', queue_of(redis_key, call), '', l, call))
        -- Behind a lock, so that the next step knows where to go on.
        if bytes >= tonumber(max_bytes) then
          reply[3] = 'cut'
          break
        end
      end
    end
  end
  return reply
end
