"""All that changes weights: tasks, losses, the step, its data and its schedule. Installed as
`unimodal.training`.
"""
