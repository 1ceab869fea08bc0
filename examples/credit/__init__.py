"""The main job on real data: default of credit card clients (Yeh and Lien, UCI, CC BY 4.0), with synthetic identities."""
