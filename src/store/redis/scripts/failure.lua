-- A write failed: all operations with effects fail. `outcome` is 'none' if nothing was written, 'removed' if only
-- fields of locks were removed, and 'unknown' later.
return function(replies, is_removed, outcome, said)
  for at, operation in ipairs(batch.operations) do
    if operation.changed then
      local is_unknown = outcome == 'unknown' or outcome == 'removed' and is_removed[operation.key]
      replies[at] = 'error\t' .. (is_unknown and 'unknown' or 'none') .. '\t' .. said
    end
  end
  batch.expired, batch.notified, batch.published = 0, {}, {}
end
