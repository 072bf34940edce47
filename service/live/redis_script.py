"""The fold as a Redis script: one call for one ID, which counts each of its events once.

It does what `native/core/fold.hpp` does, to the same bytes except for rounding; tests hold both to one reference.
"""

import hashlib
from typing import NamedTuple, Self

from msd.contract.rows import LATEST_S, MAX_COUNT
from msd.contract.schema import MAX_HISTORY
from service.live.live_state import MAX_STATE_BYTES

_FOLD = (
    b"local max_bytes, max_items, max_count, latest = %d, %d, %g, %g"
    % (MAX_STATE_BYTES, MAX_HISTORY, MAX_COUNT, LATEST_S)
    + rb"""
-- KEYS: the state; the events seen in this horizon, in the one before, in the one after (another's clock may be ahead).
-- ARGV: half-life (s), items to remember, how long events seen are kept (s), the row's packed state,
-- then of each event: a digest of its key, its packed time and kind, its item where it is to be remembered.
-- Returns a letter an event: duplicate, in the row, late, or new; and one more if the state was damaged, and replaced.
local half_life, length, seconds = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
-- A state is kept until less than 1/128 of an impression or click is left of its counts, and a month at least, for its
-- history does not fade. Redis takes no end in more than some millions of years.
local spare_half_lives, least, most = 7, 30 * 86400, 1e12

local function parse(packed)
  if not packed or #packed < 33 or string.byte(packed) ~= 2 then return nil end
  local _, i, c, a, w, place = struct.unpack('<Bdddd', packed)
  local sum = i + c + a + w
  if not (i >= 0 and c >= 0 and sum > -math.huge and sum < math.huge) then return nil end
  local history = {}
  while place <= #packed do
    if place + 17 > #packed or #history == max_items then return nil end
    local at, shown, clicked, size, start = struct.unpack('<dffH', packed, place)
    place = start + size
    if place - 1 > #packed or not (at > -math.huge and at < math.huge and shown >= 0 and shown <= max_count
      and clicked >= 0 and clicked <= max_count) then return nil end
    history[#history + 1] = {at, string.sub(packed, start, place - 1), shown, clicked}
  end
  return {i, c, a, w, history}
end

-- Byte by byte, for the server's locale may have it otherwise.
local function is_less(one, other)
  for place = 1, math.min(#one, #other) do
    local x, y = string.byte(one, place), string.byte(other, place)
    if x ~= y then return x < y end
  end
  return #one < #other
end

-- The newest of a history, in one pass: `remember` of fold.hpp says which.
local function newest(held)
  local surplus, clicks, kept = #held - length, 0, {}
  for _, one in ipairs(held) do
    if one[4] > 0 then clicks = clicks + 1 end
  end
  for _, one in ipairs(held) do
    local click = one[4] > 0 and 1 or 0
    if surplus > 0 and (clicks > math.floor(length / 5) or click == 0) then
      surplus, clicks = surplus - 1, clicks - click
    else
      kept[#kept + 1] = one
    end
  end
  return kept
end

local function remember(history, at, item, shown, clicked)
  local held = {}
  for _, known in ipairs(history) do
    if known[2] == item then
      at, shown, clicked = math.max(at, known[1]), shown + known[3], clicked + known[4]
    else
      held[#held + 1] = known
    end
  end
  local place = #held
  while place > 0 and (held[place][1] > at or (held[place][1] == at and is_less(item, held[place][2]))) do
    place = place - 1
  end
  table.insert(held, place + 1, {at, item, shown, clicked})
  return #held > length and newest(held) or held
end

-- What is too long is not even copied: that alone would hold the server for milliseconds.
local size = redis.call('STRLEN', KEYS[1])
local row, state = parse(ARGV[4]), size <= max_bytes and parse(redis.call('GET', KEYS[1])) or nil
-- Bytes in Redis carry no checksum: what no fold can have made is no state.
if state and not (state[3] < latest and math.max(state[1], state[2]) < max_count) then state = nil end
local damage = size > 0 and not state and 'x' or ''
if not state or row[3] >= state[3] then state = row end
local outcomes, is_changed = {}, false
for place = 5, #ARGV, 3 do
  local digest, item = ARGV[place], ARGV[place + 2]
  local is_click, at = struct.unpack('<Bd', ARGV[place + 1])
  local outcome
  if redis.call('SISMEMBER', KEYS[3], digest) == 1 or redis.call('SISMEMBER', KEYS[4], digest) == 1
    or redis.call('SADD', KEYS[2], digest) == 0 then
    outcome = 'd'
  elseif at <= state[4] then
    outcome = 'r'
  else
    outcome = at < state[3] and 'l' or 'n'
    if at > state[3] then
      -- `decay` of fold.hpp: tests/service/test_live_stores.py holds them equal.
      local fade = 2 ^ ((state[3] - at) / half_life)
      state[1], state[2], state[3] = state[1] * fade, state[2] * fade, at
    end
    local weight = 2 ^ ((at - state[3]) / half_life)
    state[1 + is_click] = state[1 + is_click] + weight
    if item ~= '' then state[5] = remember(state[5], at, item, 1 - is_click, is_click) end
    is_changed = true
  end
  outcomes[#outcomes + 1] = outcome
end
redis.call('EXPIRE', KEYS[2], seconds)
if is_changed then
  local parts = {struct.pack('<Bdddd', 2, state[1], state[2], state[3], state[4])}
  for _, one in ipairs(state[5]) do
    parts[#parts + 1] = struct.pack('<dffH', one[1], one[3], one[4], #one[2]) .. one[2]
  end
  local half_lives = math.log(math.max(state[1], state[2])) / math.log(2) + spare_half_lives
  local kept = math.min(math.max(half_life * half_lives, least), most)
  redis.call('SET', KEYS[1], table.concat(parts), 'EX', string.format('%.0f', kept))
end
return table.concat(outcomes) .. damage
"""
)

_STREAM = rb"""
-- KEYS: the stream. ARGV: the silence that is tolerated (s), then packed stretches. Returns the packed stream.
local lag, packed = tonumber(ARGV[1])
local since, until_
if redis.call('STRLEN', KEYS[1]) == 16 then since, until_ = struct.unpack('<dd', redis.call('GET', KEYS[1])) end
if since and not (since <= until_ and until_ < 1e11) then since, until_ = nil, nil end
for place = 2, #ARGV do
  local from, to = struct.unpack('<dd', ARGV[place])
  if not until_ or from > until_ + lag then
    since, until_ = from, to
  else
    until_ = math.max(until_, to)
  end
end
packed = struct.pack('<dd', since, until_)
redis.call('SET', KEYS[1], packed)
return packed
"""


class Script(NamedTuple):
    """A script, and its SHA-1."""

    text: bytes
    sha: bytes

    @classmethod
    def of(cls, text: bytes) -> Self:
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


FOLD, STREAM = Script.of(_FOLD), Script.of(_STREAM)
DUPLICATE, IN_ROW, LATE = b"drl"
"""Results of FOLD for an event that is not simply new."""
DAMAGED = b"x"
"""Ends the results of FOLD if the state that it found was unreadable."""
