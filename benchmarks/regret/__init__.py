"""What a choice by predicted times costs: every layout of a request run, and the chosen one's time
over the best one's."""
