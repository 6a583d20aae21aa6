"""A request answered: its checks, the workloads and layouts it leaves, the choice and its reason,
alternatives, remedies and limits. How a candidate is priced lives in ``planner/search`` and
below, the words of the report in ``planner/report``."""
