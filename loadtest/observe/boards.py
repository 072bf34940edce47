"""All dashboards."""

from loadtest.observe.board import Board
from loadtest.observe.capacity_board import CAPACITY
from loadtest.observe.quality_board import QUALITY
from loadtest.observe.service_board import SERVICE
from loadtest.observe.store_board import STORE

BOARDS: tuple[Board, ...] = (SERVICE, QUALITY, STORE, CAPACITY)
