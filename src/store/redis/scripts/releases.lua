-- The releases of the last seconds, by lock and lease id ('L') or idempotency key ('I').
local remembered = {}

local function field_of(key, kind, id)
  return key .. '\t' .. kind .. string.sub(id, -16)
end

-- Reads until when these releases are remembered.
local function read(fields)
  if releases == '' then return end
  for _, hash in ipairs(RELEASED) do
    for at, forget_at in ipairs(rcall('HMGET', hash, unpack(fields))) do
      if forget_at then ctx.released[fields[at]] = tonumber(forget_at) end
    end
  end
end

-- Whether a lease was released moments ago, by its id or its idempotency key. The first acquisition reads the releases of
-- all acquisitions of the batch.
function remembered.has(key, id, idem)
  if not ctx.has_read_releases then
    ctx.has_read_releases = true
    local fields = {}
    for _, operation in ipairs(operations) do
      if operation.verb == 'acquire' then
        local id, idem = match(operation.arguments, '^([^\t]*)\t([^\t]*)')
        fields[#fields + 1] = field_of(operation.key, 'L', id)
        if idem ~= '' then fields[#fields + 1] = field_of(operation.key, 'I', idem) end
      end
    end
    read(fields)
  end
  local by_id = ctx.released[field_of(key, 'L', id)]
  local by_key = idem ~= '' and ctx.released[field_of(key, 'I', idem)]
  return by_id and now < by_id or by_key and now < by_key
end

-- Whether the lease with this id was released moments ago.
function remembered.has_lease(key, id)
  local field = field_of(key, 'L', id)
  if ctx.released[field] == nil then read({ field }) end
  local forget_at = ctx.released[field]
  return forget_at and now < forget_at
end

-- Remembers the release of a lease..
function remembered.add(key, id, idem)
  local forget_at = now + RELEASE_MEMORY_US
  local forget_text, stored = int(forget_at), ctx.releases or {}
  ctx.releases = stored
  local field = field_of(key, 'L', id)
  ctx.released[field], stored[#stored + 1], stored[#stored + 2] = forget_at, field, forget_text
  if idem ~= '' then
    field = field_of(key, 'I', idem)
    ctx.released[field], stored[#stored + 1], stored[#stored + 2] = forget_at, field, forget_text
  end
end

return remembered
