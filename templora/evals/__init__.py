"""Evaluation: tasks × methods × models, a cell at a time, into results that tables, plots and a page are made of."""
