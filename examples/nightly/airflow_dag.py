"""A night of `msd nightly` in Airflow, which no test installs: its syntax alone is checked."""

from datetime import datetime

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("ctr", schedule="0 3 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1):
    command = "msd nightly /srv/nightly.toml --night {{ ds }}"
    BashOperator(task_id="nightly", bash_command=command, skip_on_exit_code=3, retries=2)
