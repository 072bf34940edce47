"""All dashboards."""

from msd.dashboards.board import Board
from msd.dashboards.capacity_board import CAPACITY
from msd.dashboards.quality_board import QUALITY
from msd.dashboards.service_board import SERVICE
from msd.dashboards.store_board import STORE

BOARDS: tuple[Board, ...] = (SERVICE, QUALITY, STORE, CAPACITY)
