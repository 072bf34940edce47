"""Dashboards as Grafana's JSON, made with its own SDK."""

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from msd.dashboards.board import Board, Panel

_SOURCE = models.DataSourceRef(type_val="prometheus", uid="$datasource")
_WIDTHS = {1: 24, 2: 12, 3: 8, 4: 6}
_HEIGHT = 8
_UNITS = {"cps": "cps", "cores": "short"}


def to_grafana(board: Board) -> str:
    """Return the dashboard's JSON; equal boards give equal JSON."""
    made = (
        build.Dashboard(board.title)
        .uid(board.name)
        .description(board.text)
        .tags(["msd-ctr"])
        .timezone("browser")
        .refresh("30s")
        .time("now-1h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_names("namespace", "label_values(msd_ready, namespace)"))
        .with_variable(_names("job", 'label_values(msd_ready{namespace=~"$namespace"}, job)'))
    )
    for row in board.rows:
        made = made.with_row(build.Row(row.title))
        width = _WIDTHS.get(len(row.panels), 8)
        for panel in row.panels:
            made = made.with_panel(_number(panel, width) if panel.is_number else _lines(panel, width))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def _names(label: str, query: str) -> build.QueryVariable:
    return (
        build.QueryVariable(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def _lines(panel: Panel, width: int) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.text)
        .datasource(_SOURCE)
        .unit(_UNITS.get(panel.unit, panel.unit))
        .min(0)
        .height(_HEIGHT)
        .span(width)
        .fill_opacity(30 if panel.is_stacked else 0)
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
        .legend(common.VizLegendOptions().show_legend(True).placement(common_models.LegendPlacement.BOTTOM))
    )
    if panel.is_stacked:
        made = made.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if panel.limit is not None:
        made = made.thresholds(_limit(panel.limit)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        )
    for query in _queries(panel):
        made = made.with_target(query)
    return made


def _number(panel: Panel, width: int) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.text)
        .datasource(_SOURCE)
        .unit(_UNITS.get(panel.unit, panel.unit))
        .height(_HEIGHT)
        .span(width)
    )
    for query in _queries(panel):
        made = made.with_target(query)
    return made


def _queries(panel: Panel) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(one.expr)
        .legend_format(one.legend)
        .ref_id(chr(ord("A") + place))
        .datasource(_SOURCE)
        for place, one in enumerate(panel.queries)
    ]


def _limit(limit: float) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=None, color="green"), models.Threshold(value=limit, color="red")])
    )
