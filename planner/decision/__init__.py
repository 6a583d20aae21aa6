"""A request answered: the question and its checks, the workloads and layouts it leaves, the search
over its methods, the choice and its reason, the alternatives, remedies and limits, and the plan of
it all. How a candidate is priced lives in ``planner/search`` and below; words of the report live in
``planner/report``."""
